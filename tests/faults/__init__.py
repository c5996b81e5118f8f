"""What happens to a user when a disk fills up, a file rots, a process dies or a folder is hostile.

``python -m faults`` (``make faults``) tries it a thousand times and prints one table; README.md
says what each kind is.
"""
