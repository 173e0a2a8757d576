"""The AWS stack: a CloudFormation template as package data, and the commands that put it to use."""
