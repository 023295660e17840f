"""An OpenAI-compatible server: every request's tree in one pass, and a page that shows them."""
