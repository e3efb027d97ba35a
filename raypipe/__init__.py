"""raypipe: from folders of videos and images to a finetuned, evaluated video-language model, on Ray."""

__version__ = "0.6.0"
