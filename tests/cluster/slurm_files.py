"""The files of a test cluster (slurm.Cluster): slurm.conf, gres.conf, slurmdbd.conf, fake GPUs, and the executor's srun."""

import shutil
import socket

PASSWORD = "only-on-loopback"


def write(cluster) -> None:
    """Write all of them into the cluster's folder."""
    at = cluster.folder
    for i in range(cluster.gpus):
        (at / "gpu" / f"gpu{i}").touch()
    (at / "slurm.conf").write_text("\n".join([*controller(cluster), *machines(cluster)]) + "\n")
    (at / "gres.conf").write_text(
        "".join(f"NodeName={n} Name=gpu Type=fake File={at}/gpu/gpu{i}\n" for n in cluster.nodes for i in range(cluster.gpus))
    )
    (at / "slurmdbd.conf").write_text("\n".join(database(cluster)) + "\n")
    (at / "slurmdbd.conf").chmod(0o600)
    # the executor's job step drops every SLURM_ variable, SLURM_CONF among them: its srun is told again where to look
    srun = at / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={at}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)


def controller(cluster) -> list[str]:
    """Lines of slurm.conf: the daemons, and how jobs are scheduled and counted."""
    at = cluster.folder
    return [
        "ClusterName=test",
        f"SlurmctldHost={socket.gethostname()}(127.0.0.1)",
        f"SlurmctldPort={cluster.controller_port}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={at}/run/munge.socket,cred_expire=20",  # also what a requeued job waits for
        f"StateSaveLocation={at}/state",
        f"SlurmdSpoolDir={at}/spool/%n",
        f"SlurmctldPidFile={at}/run/slurmctld.pid",
        f"SlurmdPidFile={at}/run/%n.pid",
        f"SlurmctldLogFile={at}/log/slurmctld.log",
        f"SlurmdLogFile={at}/log/%n.log",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        "SlurmdParameters=config_overrides",  # more CPUs than the host has
        "GresTypes=gpu",
        # without cgroups the accounting gatherer is what ends a step that exceeds its memory
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=1",
        "JobAcctGatherParams=OverMemoryKill",
        *accounting(cluster),
        # short intervals: faults show in seconds
        "SlurmctldTimeout=10",
        "SlurmdTimeout=12",
        "InactiveLimit=0",
        f"KillWait={cluster.kill_wait}",
        "CompleteWait=0",
        "OverTimeLimit=0",
        "BatchStartTimeout=20",
        "MessageTimeout=10",
        "TCPTimeout=2",
        "UnkillableStepTimeout=30",
        f"MinJobAge={cluster.min_job_age}",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0,requeue_setup_env_fail",
        "JobRequeue=1",
        "ReturnToService=2",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
    ]


def accounting(cluster) -> list[str]:
    """Lines of slurm.conf about slurmdbd, or that there is none."""
    if not cluster.accounting:
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={cluster.accounting_port}",
        # where slurmdbd's munge is not at the usual place, the clients learn of it through this field
        f"AccountingStoragePass={cluster.folder}/run/munge.socket",
        "AccountingStorageTRES=gres/gpu",
        "AccountingStoreFlags=job_comment",
    ]


def machines(cluster) -> list[str]:
    """Lines of slurm.conf: the nodes, and two partitions of all of them, of which the urgent one takes nodes from the other."""
    every = ",".join(cluster.nodes)
    return [
        *(
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs={cluster.cpus} "
            f"RealMemory={cluster.memory_mb} Gres=gpu:fake:{cluster.gpus} State=UNKNOWN"
            for name, port in zip(cluster.nodes, cluster.node_ports, strict=True)
        ),
        f"PartitionName=main Nodes={every} Default=YES MaxTime=60 PriorityTier=1 OverSubscribe=NO State=UP",
        f"PartitionName=urgent Nodes={every} MaxTime=60 PriorityTier=9 PreemptMode=OFF State=UP",
    ]


def database(cluster) -> list[str]:
    """Lines of slurmdbd.conf."""
    return [
        "DbdHost=localhost",
        "DbdAddr=127.0.0.1",
        f"DbdPort={cluster.accounting_port}",
        "SlurmUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={cluster.folder}/run/munge.socket",
        f"PidFile={cluster.folder}/run/slurmdbd.pid",
        f"LogFile={cluster.folder}/log/slurmdbd.log",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={cluster.database_port}",
        "StorageUser=slurm",
        f"StoragePass={PASSWORD}",
        "StorageLoc=accounting",
    ]
