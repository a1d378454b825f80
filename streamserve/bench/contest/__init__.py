"""`streamserve bench`: whole servers against each other, over HTTP, on the same cores or GPUs."""
