"""The verdict on anyone's runs: of folders, of files, or of two commands. No torch."""
