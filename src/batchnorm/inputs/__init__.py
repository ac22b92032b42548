"""The input stage: from tables as people have them to the numbers that a network reads."""
