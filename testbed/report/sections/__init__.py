"""The page's sections: which figures and sentences each one shows."""
