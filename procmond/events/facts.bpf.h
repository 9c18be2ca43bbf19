/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
 *
 * From the kernel's structures to the facts of a record. One rule: pids are those of procmond's own pid
 * namespace, and 0 stands for whatever lies outside of it.
 *
 * Every pointer here is either held by the running process itself or read under RCU by loads that cannot
 * fault; what may be freed meanwhile is for the caller to read again and compare.
 */
#pragma once

/* Filled in by the loader before the programs are loaded. */
struct settings {
	s64 boottime_offset_ns;   /* of procmond's time namespace */
	u32 pid_namespace;        /* inode of procmond's own */
	bool initial_pid_namespace;
	bool legacy_cgroups;      /* some hierarchy is mounted the way of version 1 */
	bool own_cgroup_namespace; /* procmond is not in the initial one */
	bool count_threads;       /* tell last exits by counting, as kernels before 6.16 have to */
};
const volatile struct settings settings = {};

/* The pid's number and namespace at a level. Older verifiers allow no arithmetic on a pointer they know the
 * type of, so this takes one that has been forgotten: see forget_type. */
static __always_inline struct upid *number_at(struct pid *pid, u32 level)
{
	return (void *)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
}

static __always_inline struct pid *forget_type(struct pid *pid)
{
	struct pid *plain = 0;

	bpf_probe_read_kernel(&plain, sizeof(plain), &pid);
	return plain;
}

static __noinline u32 scan_levels(struct pid *pid)
{
	u32 level = pid->level;
	struct pid *plain = forget_type(pid);

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_PID_LEVELS && i <= level; i++) {
		struct upid *number = number_at(plain, i);

		if (BPF_CORE_READ(number, ns, ns.inum) == settings.pid_namespace)
			return BPF_CORE_READ(number, nr);
	}
	return 0;
}

static __always_inline u32 pid_here(struct pid *pid)
{
	if (!pid)
		return 0;
	/* Level 0 is the initial namespace, in which every process has a number. */
	return settings.initial_pid_namespace ? pid->numbers[0].nr : scan_levels(pid);
}

/* The namespace a pid was made in; what /proc/PID/ns/pid shows. */
static __always_inline u32 pid_namespace_of(struct pid *pid)
{
	struct upid *number;

	if (!pid)
		return 0;
	if (pid->level == 0)
		return pid->numbers[0].ns->ns.inum;
	number = number_at(forget_type(pid), pid->level);
	return BPF_CORE_READ(number, ns, ns.inum);
}

static __always_inline u64 start_of(struct task_struct *leader)
{
	return leader->start_boottime + settings.boottime_offset_ns;
}

static __always_inline void read_ids(struct identity *to, const struct cred *cred)
{
	to->uid = cred->uid.val;
	to->euid = cred->euid.val;
	to->gid = cred->gid.val;
	to->egid = cred->egid.val;
}

/* Every field of `to` but comm's padding is written. `leader` leads its thread group. */
static __always_inline void read_identity(struct identity *to, struct task_struct *leader, u32 pid)
{
	struct task_struct *parent = leader->real_parent;
	struct signal_struct *signal = leader->signal;
	struct nsproxy *namespaces = leader->nsproxy;

	to->start_ns = start_of(leader);
	to->exec_id = leader->self_exec_id;
	to->cgroup_id = leader->cgroups->dfl_cgrp->kn->id;
	to->pid = pid;
	to->ppid = 0;
	to->parent_start_ns = 0;
	if (parent) {
		parent = parent->group_leader;
		to->ppid = pid_here(parent->thread_pid);
		to->parent_start_ns = to->ppid ? start_of(parent) : 0;
	}
	/* A kernel without auditing knows no login uid: the value that means "none". */
	to->login_uid = bpf_core_field_exists(leader->loginuid) ? leader->loginuid.val : ~0U;
	to->session = pid_here(signal->pids[SESSION]);
	to->pid_namespace = pid_namespace_of(leader->thread_pid);
	to->mount_namespace = namespaces ? namespaces->mnt_ns->ns.inum : 0;
	to->flags = leader->flags & KERNEL_THREAD ? FLAG_KERNEL_THREAD : 0;
	to->unused = 0;
	bpf_probe_read_kernel(to->comm, sizeof(to->comm), leader->comm);
}

static __always_inline void read_times(struct image *to, struct inode *inode)
{
	if (bpf_core_field_exists(inode->i_mtime_sec)) {
		to->mtime_s = inode->i_mtime_sec;
		to->mtime_ns = inode->i_mtime_nsec;
		to->ctime_s = inode->i_ctime_sec;
		/* Bit 31 says that somebody asked for the time (multigrain timestamps, since 6.13). */
		to->ctime_ns = inode->i_ctime_nsec & 0x7fffffff;
		return;
	}
	if (bpf_core_field_exists(struct inode___mtime_wrapped, __i_mtime)) {
		struct inode___mtime_wrapped *wrapped = (void *)inode;

		to->mtime_s = BPF_CORE_READ(wrapped, __i_mtime.tv_sec);
		to->mtime_ns = BPF_CORE_READ(wrapped, __i_mtime.tv_nsec);
	} else {
		struct inode___plain *plain = (void *)inode;

		to->mtime_s = BPF_CORE_READ(plain, i_mtime.tv_sec);
		to->mtime_ns = BPF_CORE_READ(plain, i_mtime.tv_nsec);
	}
	if (bpf_core_field_exists(struct inode___ctime_wrapped, __i_ctime)) {
		struct inode___ctime_wrapped *wrapped = (void *)inode;

		to->ctime_s = BPF_CORE_READ(wrapped, __i_ctime.tv_sec);
		to->ctime_ns = BPF_CORE_READ(wrapped, __i_ctime.tv_nsec);
	} else {
		struct inode___plain *plain = (void *)inode;

		to->ctime_s = BPF_CORE_READ(plain, i_ctime.tv_sec);
		to->ctime_ns = BPF_CORE_READ(plain, i_ctime.tv_nsec);
	}
}

static __always_inline void read_image(struct image *to, struct file *file)
{
	struct inode *inode = file->f_inode;

	to->inode = inode->i_ino;
	to->size = inode->i_size;
	to->links = inode->i_nlink;
	to->device = inode->i_sb->s_dev;
	read_times(to, inode);
}

static __always_inline u64 positive(s64 number)
{
	return number > 0 ? number : 0;
}

/* Pages, as field 24 of /proc/PID/stat counts them: off by what each processor has not yet added up. */
static __always_inline u64 resident_pages(struct mm_struct *mm)
{
	struct mm_struct___plain *plain = (void *)mm;

	if (bpf_core_field_exists(plain->rss_stat.count))
		return positive(BPF_CORE_READ(plain, rss_stat.count[RSS_FILE].counter)) +
		       positive(BPF_CORE_READ(plain, rss_stat.count[RSS_ANONYMOUS].counter)) +
		       positive(BPF_CORE_READ(plain, rss_stat.count[RSS_SHARED].counter));
	return positive(mm->rss_stat[RSS_FILE].count) + positive(mm->rss_stat[RSS_ANONYMOUS].count) +
	       positive(mm->rss_stat[RSS_SHARED].count);
}

static __always_inline u32 terminal(struct signal_struct *signal)
{
	struct tty_struct *tty = signal->tty;

	if (!tty)
		return 0;
	u32 major = tty->driver->major;
	u32 minor = tty->driver->minor_start + tty->index;
	if (signal->tty != tty) /* given up meanwhile, and perhaps freed */
		return 0;
	return (minor & 0xff) | (major << 8) | ((minor & ~0xffU) << 12); /* new_encode_dev */
}
