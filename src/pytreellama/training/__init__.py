"""What the trainings of Medusa heads and of EAGLE-3 heads share."""
