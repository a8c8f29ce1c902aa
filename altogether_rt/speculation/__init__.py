"""Draft tokens: n-gram cache, picture prior, and the planner that decides how many to verify."""
