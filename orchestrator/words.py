"""What short answers mean: yes, no, or how does it stand. The rest is for the analyst. Pure."""

import re
from typing import Final

_SHORT: Final = 80
"""Characters. A longer answer says more than yes or no."""
_YES: Final = (
    "yes|y|yeah|yep|yup|sure|ok|okay|fine|go|go ahead|do it|confirm|confirmed|correct|right|agreed"
    "|that is right|thats right|sounds good|looks good|please do|call|call them|ja|jawohl|oui|si|sí"
)
_STOP: Final = "cancel|stop|abort|never mind|nevermind|forget it|do not call|dont call|abbrechen"
_NO: Final = f"no|n|nope|nah|do not|dont|nein|non|{_STOP}"
_FILLER: Final = (
    "please|thanks|thank you|bitte|merci|it|that|this|them|now|all|everything|the order|the call"
    "|my order|the task|call"
)
_ENQUIRY: Final = re.compile(
    r"(?:so |and |well )?(?:how (?:is|s|are|did|does|do) (?:it|that|things|my order|the order|the "
    r"call|we).*|status|state|any (?:news|update)s?|news|update|what (?:happened|is the status|s "
    r"the status|became of it).*|did (?:it|they|the phone) .*|(?:is|was|has) (?:it|the call|the "
    r"order|my order) .*|well|and|look)?"
)


def says_yes(text: str) -> bool:
    """Say whether `text` agrees, and does nothing but agree. A question agrees to nothing."""
    return "?" not in text and _consists_of(text, _YES, f"{_YES}|{_FILLER}")


def says_no(text: str) -> bool:
    """Say whether `text` declines, and does nothing but decline."""
    return _consists_of(text, _NO, f"{_NO}|{_FILLER}|ok|okay|oh|and|so|wait")


def says_stop(text: str) -> bool:
    """Say whether `text` takes the whole task back; a bare "no" may answer a question instead."""
    return says_no(text) and re.search(rf"\b(?:{_STOP})\b", _plain(text)) is not None


def asks_how_it_stands(text: str) -> bool:
    """Say whether `text` only asks what became of an order."""
    return _ENQUIRY.fullmatch(_plain(text)) is not None


def _consists_of(text: str, wanted: str, allowed: str) -> bool:
    plain = _plain(text)
    return (
        re.fullmatch(rf"(?:(?:{allowed})(?: |$))+", plain) is not None
        and re.search(rf"(?:^| )(?:{wanted})(?: |$)", plain) is not None
    )


def _plain(text: str) -> str:
    """Return `text` in lower case, without apostrophes, all other punctuation as one space."""
    if len(text) > _SHORT:
        return "more than a word"
    bare = re.sub(r"['’]", "", text.casefold())
    return re.sub(r"[\W_]+", " ", bare).strip()
