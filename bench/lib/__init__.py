"""What benches share: reports, questions, models, stock tools."""
