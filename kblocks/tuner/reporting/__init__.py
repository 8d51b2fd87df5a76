"""Shows a finished or running search: the HTML report and TensorBoard logs."""
