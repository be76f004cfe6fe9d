"""How much memory of cards a model needs: pure functions of dimensions, wish and cards."""
