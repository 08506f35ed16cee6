"""What is kept and for how long: audits for their time, results for as long as an audit that exists has used them."""
