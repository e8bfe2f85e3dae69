"""Files from elsewhere: the catalogue, downloads, checks, and the cache."""
