"""Small configurations of Hugging Face model types."""
