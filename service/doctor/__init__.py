"""What is wrong with an installation, and how to mend it: each module looks at one part and answers with findings."""
