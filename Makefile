PYTHON ?= python3

.PHONY: demo test

demo:
	$(PYTHON) tests/bootstrap.py demo

test:
	$(PYTHON) tests/bootstrap.py test
