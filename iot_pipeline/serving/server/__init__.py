"""HTTP service of a trained student: its own API, OpenAI's and SGLang's, and a page for people."""
