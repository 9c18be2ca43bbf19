/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
 *
 * The task iterator: one record for each thread group leader in the reader's pid namespace. One rule: it
 * never reads the memory of a process, which may make it wait for ever.
 *
 * A process may exec, move or end while it is read. Then the pointers read last differ from those read
 * first, and the record says so (FLAG_CHANGED). An exec changes image, name, arguments and credentials one
 * after the other, so a process in the middle of one has changed too.
 */
#pragma once

/* Slots are claimed, not per processor: a reader may be preempted by another one on the same processor. */
enum { TASK_SLOTS = 4, MAX_THREADS = 1 << 16 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TASK_SLOTS);
	__type(key, u32);
	__type(value, struct scratch);
} task_scratch SEC(".maps");

static __always_inline struct scratch *claim_slot(void)
{
	for (u32 i = 0; i < TASK_SLOTS; i++) {
		u32 key = i;
		struct scratch *slot = bpf_map_lookup_elem(&task_scratch, &key);

		if (slot && __sync_val_compare_and_swap(&slot->busy, 0, 1) == 0)
			return slot;
	}
	return 0;
}

struct times {
	u64 thread;
	u64 end;
	u64 total;
};

static long add_thread(u32 index, struct times *times)
{
	struct task_struct *thread;

	if (!times->thread || times->thread == times->end)
		return 1;
	thread = (void *)times->thread - bpf_core_field_offset(struct task_struct, thread_node);
	times->total += BPF_CORE_READ(thread, se.sum_exec_runtime);
	times->thread = (u64)BPF_CORE_READ(thread, thread_node.next);
	return 0;
}

/* Nanoseconds on a processor, of all threads, the ended ones included. */
static __always_inline u64 cpu_time(struct task_struct *leader, struct signal_struct *signal)
{
	struct times times = { .total = signal->sum_sched_runtime };

	if (signal->nr_threads <= 1)
		return times.total + leader->se.sum_exec_runtime;
	times.thread = (u64)signal->thread_head.next;
	times.end = (u64)signal + bpf_core_field_offset(struct signal_struct, thread_head);
	bpf_loop(MAX_THREADS, add_thread, &times, 0);
	return times.total;
}

static __always_inline void read_memory(struct scratch *slot, struct task_record *to, struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	struct file *file;
	struct dentry *entry;

	if (!mm || to->process.flags & FLAG_KERNEL_THREAD) /* these may borrow one */
		return;
	to->argument_start = mm->arg_start;
	to->argument_end = mm->arg_end;
	to->resident_pages = resident_pages(mm);
	file = mm->exe_file;
	if (!file)
		return;
	entry = file->f_path.dentry;
	read_image(&to->image, file);
	to->process.flags |= FLAG_IMAGE;
	if (is_deleted(file->f_path.mnt, entry))
		to->process.flags |= FLAG_IMAGE_DELETED;
	to->path = append_path(slot, file->f_path.mnt, entry, &to->process.flags, FLAG_PATH_CUT);
	if (task->mm != mm || mm->exe_file != file || file->f_path.dentry != entry)
		to->process.flags |= FLAG_CHANGED;
}

static __always_inline void read_directory(struct scratch *slot, struct task_record *to, struct task_struct *task)
{
	struct fs_struct *fs = task->fs;
	struct vfsmount *mount;
	struct dentry *entry;

	if (!fs)
		return;
	entry = fs->pwd.dentry;
	mount = fs->pwd.mnt;
	if (!entry || !mount)
		return;
	to->process.flags |= FLAG_CWD;
	if (is_deleted(mount, entry))
		to->process.flags |= FLAG_CWD_DELETED;
	to->cwd = append_path(slot, mount, entry, &to->process.flags, FLAG_CWD_CUT);
	if (task->fs != fs || fs->pwd.dentry != entry || fs->pwd.mnt != mount)
		to->process.flags |= FLAG_CHANGED;
}

static __always_inline void read_task(struct scratch *slot, struct task_record *to, struct task_struct *task, u32 pid)
{
	struct signal_struct *signal = task->signal;
	struct nsproxy *namespaces = task->nsproxy;
	struct css_set *groups = task->cgroups;
	bool exec = BPF_CORE_READ_BITFIELD(task, in_execve);

	__builtin_memset(to, 0, sizeof(*to));
	slot->used = sizeof(*to);
	to->header.kind = KIND_TASK;
	to->header.layout = LAYOUT;
	to->header.boot_ns = bpf_ktime_get_boot_ns() + settings.boottime_offset_ns;
	read_identity(&to->process, task, pid);
	read_ids(&to->process, task->real_cred);
	to->state = task->__state;
	to->exit_state = task->exit_state;
	to->threads = signal->nr_threads;
	to->cpu_ns = cpu_time(task, signal);
	to->tty = terminal(signal);
	read_memory(slot, to, task);
	read_directory(slot, to, task);
	to->cgroup = append_cgroup(slot, task, &to->process.flags);
	exec |= BPF_CORE_READ_BITFIELD(task, in_execve) || task->self_exec_id != to->process.exec_id;
	if (exec || task->nsproxy != namespaces || task->cgroups != groups)
		to->process.flags |= FLAG_CHANGED;
	to->header.length = slot->used;
}

SEC("iter/task")
int dump_task(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;
	struct scratch *slot;
	u32 pid, length;

	if (!task || task->group_leader != task)
		return 0;
	if (settings.own_cgroup_namespace && !own_cgroup_root)
		own_cgroup_root = (u64)BPF_CORE_READ(bpf_get_current_task_btf(), nsproxy, cgroup_ns, root_cset,
						     dfl_cgrp, kn);
	pid = pid_here(task->thread_pid);
	if (!pid)
		return 0;
	slot = claim_slot();
	if (!slot)
		return 1; /* ask again: EAGAIN for the reader when nothing else is left */
	read_task(slot, (void *)slot->record, task, pid);
	length = slot->used;
	if (length <= RECORD_BYTES)
		bpf_seq_write(context->meta->seq, slot->record, length);
	__sync_val_compare_and_swap(&slot->busy, 1, 0);
	return 0;
}
