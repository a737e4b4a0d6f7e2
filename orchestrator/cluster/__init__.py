"""Where gangs run: Ray, or a simulation behind the same port."""
