"""What runs used: taken note of after their end, listed and summed up."""
