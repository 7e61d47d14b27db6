"""One verb per file: a specification in, a result out."""
