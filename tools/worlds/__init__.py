"""Small text-to-image worlds with known truth, from any labelled set of pictures: see README.md beside this file."""
