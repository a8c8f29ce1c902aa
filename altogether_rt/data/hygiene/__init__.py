"""Alt-texts that say nothing of the image, or in a form that nobody wrote: found and left out."""
