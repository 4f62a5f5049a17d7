# SPDX-License-Identifier: GPL-2.0-or-later
"""Schedulers and CPU pools: `sched-*`, `cpupool-*`, `vcpu-pin`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenograft.cli.xl.base import (
    ask,
    complain,
    complete_domain,
    domain_argument,
    global_options,
    json_option,
    print_json,
)
from xenograft.toolstack.errors import Failure, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenograft.toolstack.service.messages import SchedPool, SchedRow

_domain_option = click.option(
    "-d", "--domain", metavar="DOMAIN", help="Of this domain.", shell_complete=complete_domain
)
_pool_option = click.option("-p", "--cpupool", metavar="POOL", help="Of this pool alone.")


def _triples(rows: list[SchedRow]) -> list[Any]:
    return [(row.name, row.domid, row.params) for row in rows]


def _objects(pools: list[SchedPool]) -> list[dict[str, Any]]:
    import msgspec

    return [
        {
            "cpupool": pool.pool,
            **msgspec.to_builtins(pool.params),
            "domains": _row_objects(pool.rows),
        }
        for pool in pools
    ]


def _row_objects(rows: list[SchedRow]) -> list[dict[str, Any]]:
    import msgspec

    return [
        {"domid": row.domid, "name": row.name, **msgspec.to_builtins(row.params)}
        | ({} if row.vcpu is None else {"vcpu": row.vcpu})
        for row in rows
    ]


def _show_pools(sched: str, cpupool: str | None, as_json: bool, params_only: bool) -> None:
    from xenograft.toolstack.sched import show
    from xenograft.toolstack.service.messages import GetSched

    pools = ask(GetSched(sched, cpupool))
    if as_json:
        print_json(_objects(pools))
        return
    for pool in pools:
        params: Any = pool.params
        line = show.sched_credit_pool if sched == "credit" else show.sched_credit2_pool
        click.echo(line(pool.pool, params))
        if not params_only:
            click.echo("\n".join(show.sched_credit(_triples(pool.rows))))


def _show_domain(domain: str, sched: str, as_json: bool) -> None:
    from xenograft.toolstack.sched import show
    from xenograft.toolstack.service.messages import GetDomainSched

    if as_json:
        print_json(_row_objects(ask(GetDomainSched(domain, sched))))
        return
    table = show.sched_rtds if sched == "rtds" else show.sched_credit
    header = table([])
    try:
        rows = ask(GetDomainSched(domain, sched))
    except Failure as failure:
        if "sched_params" in str(failure):
            # As xl does: the header stands there all the same.
            click.echo(header[0])
        raise
    click.echo("\n".join(table(_triples(rows))))


def _credit(
    sched: str,
    domain: str | None,
    cpupool: str | None,
    schedparam: bool,
    as_json: bool,
    of_domain: dict[str, Any],
    of_pool: dict[str, Any],
) -> None:
    """What sched-credit and sched-credit2 have in common."""
    from xenograft.toolstack.service.messages import SchedParams, SetDomainSched, SetPoolSched

    changes = {name: value for name, value in of_domain.items() if value is not None}
    globals_ = {name: value for name, value in of_pool.items() if value is not None}
    if (cpupool is not None or schedparam) and (domain is not None or changes):
        raise Failure("Specifying a cpupool or schedparam is not allowed with domain options.")
    if domain is None and changes:
        raise Failure("Must specify a domain.")
    if not schedparam and globals_:
        raise Failure("Must specify schedparam to set schedule parameter values.")
    if domain is not None:
        if changes:
            ask(SetDomainSched(domain, sched, SchedParams(**changes)))
        else:
            _show_domain(domain, sched, as_json)
    elif globals_:
        ask(SetPoolSched(sched, cpupool or "0", SchedParams(**globals_)))
    else:
        _show_pools(sched, cpupool, as_json, schedparam)


@click.command()
@_domain_option
@click.option("-w", "--weight", type=int, help="Share of the CPUs, relative to others' [256].")
@click.option("-c", "--cap", type=int, help="Per cent of one CPU at most; 0: no limit.")
@click.option("-s", "--schedparam", is_flag=True, help="The scheduler's own parameters.")
@click.option("-t", "--tslice_ms", type=int, help="Time slice in ms (with -s).")
@click.option("-r", "--ratelimit_us", type=int, help="Least time between switches (with -s).")
@click.option("-m", "--migration_delay_us", type=int, help="Delay of migration (with -s).")
@_pool_option
@json_option
def sched_credit(
    domain: str | None,
    weight: int | None,
    cap: int | None,
    schedparam: bool,
    tslice_ms: int | None,
    ratelimit_us: int | None,
    migration_delay_us: int | None,
    cpupool: str | None,
    as_json: bool,
) -> None:
    """Get or set parameters of the credit scheduler."""
    _credit(
        "credit",
        domain,
        cpupool,
        schedparam,
        as_json,
        {"weight": weight, "cap": cap},
        {
            "tslice_ms": tslice_ms,
            "ratelimit_us": ratelimit_us,
            "migration_delay_us": migration_delay_us,
        },
    )


@click.command()
@_domain_option
@click.option("-w", "--weight", type=int, help="Share of the CPUs, relative to others' [256].")
@click.option("-c", "--cap", type=int, help="Per cent of one CPU at most; 0: no limit.")
@click.option("-s", "--schedparam", is_flag=True, help="The scheduler's own parameters.")
@click.option("-r", "--ratelimit_us", type=int, help="Least time between switches (with -s).")
@_pool_option
@json_option
def sched_credit2(
    domain: str | None,
    weight: int | None,
    cap: int | None,
    schedparam: bool,
    ratelimit_us: int | None,
    cpupool: str | None,
    as_json: bool,
) -> None:
    """Get or set parameters of the credit2 scheduler."""
    _credit(
        "credit2",
        domain,
        cpupool,
        schedparam,
        as_json,
        {"weight": weight, "cap": cap},
        {"ratelimit_us": ratelimit_us},
    )


@click.command()
@_domain_option
@click.option("-v", "--vcpuid", multiple=True, metavar="VCPU|all", help="Of these vCPUs.")
@click.option("-p", "--period", type=int, multiple=True, help="Period in us.")
@click.option("-b", "--budget", type=int, multiple=True, help="Budget in us.")
@click.option("-e", "--extratime", type=int, multiple=True, help="1: may use time that is left.")
@click.option("-c", "--cpupool", metavar="POOL", help="Of this pool alone.")
@json_option
def sched_rtds(
    domain: str | None,
    vcpuid: tuple[str, ...],
    period: tuple[int, ...],
    budget: tuple[int, ...],
    extratime: tuple[int, ...],
    cpupool: str | None,
    as_json: bool,
) -> None:
    """Get or set reservations of the RTDS scheduler.

    Each -v may have its own -p, -b and -e: -v 0 -p 10000 -b 4000 -e 0 -v 1 -p 20000 -b 5000 -e 1
    """
    from xenograft.toolstack.service.messages import SchedParams, SetDomainSched

    changing = bool(period or budget or extratime)
    if cpupool is not None and (domain is not None or vcpuid or changing):
        raise Failure("Specifying a cpupool is not allowed with other options.")
    if domain is None and (vcpuid or changing):
        raise Failure("Missing parameters.")
    if changing and not vcpuid:
        raise Failure("Must specify VCPU.")
    if changing and not len(period) == len(budget) == len(extratime) == len(vcpuid):
        raise Failure("Incorrect number of period, budget and extratime")
    if domain is None:
        _show_rtds(cpupool, as_json)
    elif not changing:
        if vcpuid:
            _show_rtds_vcpus(domain, vcpuid, as_json)
        else:
            _show_domain(domain, "rtds", as_json)
    else:
        each = zip(vcpuid, period, budget, extratime, strict=True)
        params = {
            vcpu: SchedParams(period_us=p, budget_us=b, extratime=bool(e)) for vcpu, p, b, e in each
        }
        ask(SetDomainSched(domain, "rtds", SchedParams(), params))


def _show_rtds(cpupool: str | None, as_json: bool) -> None:
    from xenograft.toolstack.sched import show
    from xenograft.toolstack.service.messages import GetSched

    pools = ask(GetSched("rtds", cpupool))
    if as_json:
        print_json(_objects(pools))
        return
    for pool in pools:
        click.echo(f"Cpupool {pool.pool}: sched=RTDS")
        click.echo("\n".join(show.sched_rtds(_triples(pool.rows))))


def _show_rtds_vcpus(domain: str, vcpus: tuple[str, ...], as_json: bool) -> None:
    from xenograft.toolstack.sched import show
    from xenograft.toolstack.service.messages import GetDomainSched

    rows = ask(GetDomainSched(domain, "rtds", list(vcpus)))
    if as_json:
        print_json(_row_objects(rows))
        return
    lines: Any = [(row.name, row.domid, row.vcpu, row.params) for row in rows]
    click.echo("\n".join(show.sched_rtds_vcpus(lines)))


# -- affinity -------------------------------------------------------------------------------------
@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-f", "--force", is_flag=True, help="Undo a pinning that the kernel has made itself.")
@click.option("--ignore-global-affinity-masks", is_flag=True, help="Ignore masks of xl.conf.")
@domain_argument
@click.argument("vcpu", metavar="VCPU|all")
@click.argument("hard", metavar="HARD|-|all")
@click.argument("soft", metavar="[SOFT|-|all]", default="-")
def vcpu_pin(
    domain: str,
    vcpu: str,
    hard: str,
    soft: str,
    force: bool,
    ignore_global_affinity_masks: bool,
) -> None:
    """Set which CPUs a vCPU may use (HARD) and prefers (SOFT): 0-2,5 or ^1 or node:0."""
    from xenograft.toolstack.service.messages import PinVcpu

    ask(PinVcpu(domain, vcpu, hard, soft, force))


# -- pools ----------------------------------------------------------------------------------------
@click.command()
@click.argument("words", nargs=-1, metavar="[FILE] [KEY=VALUE]...")
@click.option("-f", "--defconfig", metavar="FILE", help="The configuration file.")
@click.option("-n", "--dryrun", is_flag=True, help="Print the resulting configuration alone.")
def cpupool_create(words: tuple[str, ...], defconfig: str | None, dryrun: bool) -> None:
    """Create a CPU pool (keys: name, sched, cpus, nodes)."""
    from xenograft.cli.xl.configure import split_words
    from xenograft.toolstack.config.cpupool import parse_pool
    from xenograft.toolstack.service.messages import CreatePool

    try:
        file, settings = split_words(words, defconfig)
        text = "" if file is None else _text_of(file)
        source = "command line" if file is None else file
        pool, _ = parse_pool("\n".join([text, *settings]), source)
    except UserError as error:
        raise Failure(str(error)) from None
    made = None
    if not (dryrun or global_options().dry_run):
        made = ask(
            CreatePool(
                pool.name,
                pool.sched,
                None if pool.cpus is None else list(pool.cpus),
                None if pool.nodes is None else list(pool.nodes),
            )
        )
    if file is not None:
        click.echo(f'Using config file "{file}"')
    click.echo(f"cpupool name:   {pool.name}")
    click.echo(f"scheduler:      {made.sched if made else pool.sched or 'the default one'}")
    click.echo(f"number of cpus: {len(made.cpus if made else pool.cpus or ())}")


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text(errors="replace")
    except OSError as error:
        raise UserError(f"{file}: {(error.strerror or str(error)).lower()}") from None


@click.command()
@click.option("-c", "--cpus", is_flag=True, help="The CPUs of each.")
@click.argument("pool", required=False)
@json_option
def cpupool_list(pool: str | None, cpus: bool, as_json: bool) -> None:
    """List CPU pools."""
    import msgspec

    from xenograft.toolstack.sched import show
    from xenograft.toolstack.service.messages import ListPools

    pools: Any = ask(ListPools())
    if pool is not None:
        pools = [row for row in pools if pool in (row.name, str(row.pool_id))]
        if not pools:
            raise Failure(f"unknown cpupool '{pool}'")
    if as_json:
        print_json(msgspec.to_builtins(pools))
        return
    click.echo("\n".join(show.cpupool_list(pools, cpus=cpus)))


@click.command()
@click.argument("pool")
def cpupool_destroy(pool: str) -> None:
    """Destroy a CPU pool without domains; its CPUs are free then."""
    from xenograft.toolstack.service.messages import DestroyPool

    ask(DestroyPool(pool))


@click.command()
@click.argument("pool")
@click.argument("new_name", metavar="NEW-NAME")
def cpupool_rename(pool: str, new_name: str) -> None:
    """Give a CPU pool another name."""
    from xenograft.toolstack.service.messages import RenamePool

    ask(RenamePool(pool, new_name))


def _mover(name: str, add: bool, does: str) -> click.Command:
    @click.command(name=name, help=f"{does}: one, a range, or node:N.")
    @click.argument("pool")
    @click.argument("cpus", metavar="CPU|node:N")
    def command(pool: str, cpus: str) -> None:
        from xenograft.toolstack.service.messages import MovePoolCpus

        try:
            ask(MovePoolCpus(pool, cpus, add))
        except Failure as failure:
            if str(failure).startswith("unknown cpupool"):
                raise
            # xl says so, and ends with status 0 all the same.
            done = "added to" if add else "removed from"
            complain(str(failure))
            complain(f"Some cpus may have not or only partially been {done} '{pool}'.")
            if not add:
                complain(
                    f"If a cpu can't be added to another cpupool, add it to '{pool}' again and"
                    " retry."
                )

    return command


cpupool_cpu_add: Callable[..., Any] = _mover("cpupool-cpu-add", True, "Give a pool free CPUs")
cpupool_cpu_remove: Callable[..., Any] = _mover(
    "cpupool-cpu-remove", False, "Take CPUs from a pool"
)


@click.command()
@domain_argument
@click.argument("pool")
def cpupool_migrate(domain: str, pool: str) -> None:
    """Move a domain into a CPU pool."""
    from xenograft.toolstack.service.messages import MigrateToPool

    ask(MigrateToPool(domain, pool))


@click.command()
def cpupool_numa_split() -> None:
    """Split the machine into one CPU pool for each NUMA node."""
    from xenograft.toolstack.service.messages import SplitPools

    ask(SplitPools())
