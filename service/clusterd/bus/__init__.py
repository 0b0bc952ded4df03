"""What workers say to each other, decided: names, bounds, who hears what, and what is retained. Pure."""
