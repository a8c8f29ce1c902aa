"""The words of captions: what they kept of the alt-text, what they added, how they are shortened."""
