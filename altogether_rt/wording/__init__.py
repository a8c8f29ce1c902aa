"""The words of captions: kept from the alt-text, added to it, shortened."""
