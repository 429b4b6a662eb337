"""The acts and looks of a person on duty, at the terminal."""
