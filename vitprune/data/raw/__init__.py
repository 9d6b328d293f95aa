"""What the download stage hands to the clean stage: the files of a source as they came, archives among them."""
