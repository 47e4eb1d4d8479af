"""A campaign's run folder as a place to work in: its claim, images, engines and judge."""
