# The notebooks as jobs. `make book` calls this through compactnets.book.pipeline, which then builds
# the site; called directly (snakemake --profile workflow/profiles/slurm) it runs what is due.
#
# A run's folder is named by a digest of everything it depends on, so a job is done if and only if
# its output exists: no time stamps, no metadata, nothing to repair after a crash.
import os
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
os.environ.setdefault("COMPACTNETS_HOME", str(ROOT))
sys.path.insert(0, str(ROOT / "lib"))

from compactnets import paths
from compactnets.book import notebook, pipeline, resources

os.environ["COMPACTNETS_BUILD"] = str(paths.build_dir().resolve())


workdir: os.environ["COMPACTNETS_BUILD"]


PROFILE = config.get("profile", "quick")
SLUGS = [slug for slug in config.get("slugs", "").split(",") if slug]
NEEDS = {
    name: {slug: resources.of(source, name) for slug, source in notebook.every().items()}
    for name in resources.DEFAULTS
}


def need(field):
    return lambda wildcards: getattr(NEEDS[wildcards.profile][wildcards.slug], field)


wildcard_constraints:
    slug="[a-z0-9-]+",
    profile="|".join(NEEDS),
    key="[0-9a-f]+",


rule every:
    input:
        [job.output for job in pipeline.plan(SLUGS, PROFILE)],
    localrule: True


rule notebook:
    output:
        "runs/{slug}/{profile}/{key}/report.json",
    log:
        "logs/{slug}.{profile}.{key}.log",
    message:
        "{wildcards.slug} at {wildcards.profile}: {threads} threads, {resources.mem_mb} MB,"
        " {resources.runtime} min, {resources.gpu} GPU; follow it in {log}"
    threads: need("threads")
    resources:
        mem_mb=need("mem_mb"),
        runtime=need("runtime"),
        gpu=need("gpu"),
        disk_mb=need("disk_mb"),
    params:
        python=sys.executable,
    shell:
        "{params.python:q} -m compactnets.book execute {wildcards.slug}"
        " --profile {wildcards.profile} --key {wildcards.key} --threads {threads} > {log:q} 2>&1"
