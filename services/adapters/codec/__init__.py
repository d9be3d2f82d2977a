"""Records and decisions as bytes: the contracts of proto/trimtab/v1."""
