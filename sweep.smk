# The sweep behind Table 7: 5 models x 5 datasets x 3 seeds, a fine-tuning run each.
#
#   one GPU, in order    snakemake -s sweep.smk --profile profiles/local
#   a SLURM cluster      snakemake -s sweep.smk --profile profiles/slurm --default-resources slurm_account=A slurm_partition=P
#   part of it           ... --config models="[llada, llama]" datasets="[p2c]" seeds="[0]"
#
# `lib.language_models.table_7` lists every setting. A run that is interrupted or killed goes on from its checkpoint when
# it is started again; one that fails leaves its log, and the others go on (--keep-going, in both profiles). Results land
# in results/language_models/, where the chapter finds them. After a sweep that was killed itself, Snakemake finds its
# lock: the same command with --unlock takes that away, and is then given again without.
import sys

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)
from lib.language_models import table_7

try:
    SETTINGS = table_7.settings(config)
except ValueError as error:
    raise WorkflowError(str(error))

CELLS = {cell.name: cell for cell in table_7.cells(SETTINGS)}


localrules:
    all,


rule all:
    input:
        expand(SETTINGS["folder"] + "/{cell}.json", cell=CELLS),


rule cell:
    output:
        SETTINGS["folder"] + "/{cell}.json",
    log:
        SETTINGS["work"] + "/{cell}.log",
    wildcard_constraints:
        cell="|".join(CELLS),
    params:
        command=lambda wildcards, output: table_7.command_line(SETTINGS, CELLS[wildcards.cell], output[0]),
    resources:
        gpu=1,
    shell:
        "{params.command} >> {log:q} 2>&1"
