"""How drawn pictures are drawn: paint, scenes, vehicles and documents. The door is `engine.synth.sets`."""
