"""Style b: crowds in halls, before a camera that pans and zooms; what people do shows in the order of the frames."""
