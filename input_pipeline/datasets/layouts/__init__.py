"""Layouts of folders that people use. A layout is recognised by its files, and it lists the files of each split."""
