"""What the report card shows, a module a section: each takes the evidence and gives the template its values, None or empty where the stage has not run."""
