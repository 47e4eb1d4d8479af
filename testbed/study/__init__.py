"""Architecture studies: the variants of one design choice, trained on several seeds and compared on the test images."""
