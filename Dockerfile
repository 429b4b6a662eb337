# One image, three roles: `ringonce serve`, `ringonce worker`, `ringonce rehearsal`.
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/ringonce \
 && /opt/ringonce/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ringonce.py ./
COPY orchestrator orchestrator
COPY dispatcher dispatcher
COPY shared shared
RUN /opt/ringonce/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/ringonce ringonce
COPY --from=build /opt/ringonce /opt/ringonce
ENV PATH=/opt/ringonce/bin:$PATH PYTHONUNBUFFERED=1 RINGONCE_DATA_DIR=/var/lib/ringonce \
    RINGONCE_HOST=0.0.0.0 RINGONCE_LOG_FORMAT=json LANGSMITH_TRACING=false
USER ringonce
WORKDIR /var/lib/ringonce
ENTRYPOINT ["ringonce"]
CMD ["--help"]
