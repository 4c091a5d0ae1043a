"""Who is on a picture, and who should be; metrics."""
