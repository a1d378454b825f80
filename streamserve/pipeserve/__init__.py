"""PipeServe: requests over one lane or two, and the lanes' lives."""
