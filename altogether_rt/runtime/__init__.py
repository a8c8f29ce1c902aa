"""One contract (`base`), several backends: what runs a bundle's graphs."""
