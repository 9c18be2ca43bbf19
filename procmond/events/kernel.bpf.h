/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
 *
 * The kernel's structures as far as they are read here. One rule: only names and types matter; where a field
 * lies is found at load time from the running kernel's BTF (CO-RE), so nothing here belongs to one version.
 *
 * A suffix ___NAME marks the form a structure had in other versions; libbpf ignores the suffix.
 * Neither the kernel's headers nor a dump of its types are needed to compile this.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;
typedef _Bool bool;

enum { false, true };

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_NOEXIST = 1,
	BPF_RB_AVAIL_DATA = 0,
	BPF_F_MMAPABLE = 1 << 10,
};

/* include/linux/sched.h, include/linux/sched/signal.h, include/linux/pid.h */
enum {
	KERNEL_THREAD = 0x00200000, /* PF_KTHREAD */
	GROUP_EXIT = 0x00000004,    /* SIGNAL_GROUP_EXIT */
	SESSION = 3,                /* PIDTYPE_SID */
	MAX_PID_LEVELS = 33,        /* MAX_PID_NS_LEVEL and the initial one */
	RSS_FILE = 0, /* MM_FILEPAGES and so on, include/linux/mm_types_task.h */
	RSS_ANONYMOUS = 1,
	RSS_SHARED = 3,
	RSS_COUNTERS = 4,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};
struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};
typedef struct {
	int counter;
} atomic_t;
typedef struct {
	u32 val;
} kuid_t;
typedef struct {
	u32 val;
} kgid_t;
struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};

/* ------------------------------------------------------------------------------ files and names */
struct super_block {
	u32 s_dev;
};
struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned int i_nlink;
	s64 i_size;
	s64 i_mtime_sec; /* since 6.11 */
	s64 i_ctime_sec;
	u32 i_mtime_nsec;
	u32 i_ctime_nsec;
};
struct inode___mtime_wrapped { /* 6.7 to 6.10 */
	struct timespec64 __i_mtime;
};
struct inode___ctime_wrapped { /* 6.6 to 6.10 */
	struct timespec64 __i_ctime;
};
struct inode___plain {
	struct timespec64 i_mtime; /* until 6.6 */
	struct timespec64 i_ctime; /* until 6.5 */
};
struct qstr {
	const unsigned char *name;
};
struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
};
struct vfsmount {
	struct dentry *mnt_root;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	struct inode *f_inode;
	struct path f_path;
};
struct fs_struct {
	struct path pwd;
};

/* ----------------------------------------------------------------------------------- namespaces */
struct ns_common {
	unsigned int inum;
};
struct pid_namespace {
	struct ns_common ns;
};
struct mnt_namespace {
	struct ns_common ns;
};
struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	unsigned int level;
	struct upid numbers[1];
};

/* --------------------------------------------------------------------------------------- cgroups */
struct kernfs_node {
	struct kernfs_node *__parent; /* since 6.15 */
	const char *name;
	u64 id;
};
struct kernfs_node___plain {
	struct kernfs_node *parent;
};
struct cgroup_root {
	int hierarchy_id;
	char name[64];
};
struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
struct cgrp_cset_link {
	struct cgroup *cgrp;
	struct list_head cgrp_link;
};
struct css_set {
	struct cgroup *dfl_cgrp;
	struct list_head cgrp_links;
};
struct cgroup_namespace {
	struct css_set *root_cset;
};
struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct cgroup_namespace *cgroup_ns;
};

/* ------------------------------------------------------------------------------------- processes */
struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t euid;
	kgid_t egid;
};
struct percpu_counter {
	s64 count;
};
struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	struct percpu_counter rss_stat[RSS_COUNTERS]; /* since 6.2 */
	struct file *exe_file;
};
typedef struct {
	s64 counter;
} atomic_long_t;
struct mm_rss_stat {
	atomic_long_t count[RSS_COUNTERS];
};
struct mm_struct___plain {
	struct mm_rss_stat rss_stat;
};
struct tty_driver {
	int major;
	int minor_start;
};
struct tty_struct {
	int index;
	struct tty_driver *driver;
};
struct signal_struct {
	atomic_t live;
	int nr_threads;
	struct list_head thread_head;
	int group_exit_code;
	unsigned int flags;
	struct pid *pids[4];
	struct tty_struct *tty;
	unsigned long long sum_sched_runtime;
};
struct sched_entity {
	u64 sum_exec_runtime;
};
struct task_struct {
	unsigned int __state;
	unsigned int flags;
	struct sched_entity se;
	struct mm_struct *mm;
	int exit_state;
	int exit_code;
	unsigned in_execve : 1;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct list_head thread_node;
	u64 start_boottime;
	const struct cred *real_cred;
	char comm[16];
	struct fs_struct *fs;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	kuid_t loginuid;
	u64 self_exec_id;
	struct css_set *cgroups;
};
struct linux_binprm {
	unsigned int secureexec : 1;
	const char *filename;
	const char *interp;
};
struct trace_event_raw_sched_process_exit {
	bool group_dead; /* since 6.16 */
};

/* ------------------------------------------------------------------------------------- iterators */
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop
