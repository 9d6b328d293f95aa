"""From a source to packed images: ``download`` fetches it, ``cleaning`` packs it, ``raw`` lies between the two."""
