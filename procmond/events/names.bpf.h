/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
 *
 * Records of variable length, and the names that go into them. One rule: what is walked here may be moved or
 * freed while it is walked, so every read may fail or see the past, none may fault, and all are counted.
 *
 * bpf_d_path is not allowed in these programs and would lock. Each name and its parent belong together or
 * follow each other within the walk; a path whose directories are renamed meanwhile may mix the two.
 */
#pragma once

struct scratch {
	u32 busy;
	u32 used;  /* bytes of record that are filled */
	u32 start; /* where the name that is being written began */
	u32 ended; /* the walk reached the top */
	u64 node;  /* kept here, not on bpf_loop's stack: the verifier would try every value */
	u64 mount;
	u64 root;
	u8 record[RECORD_BYTES];
};

enum {
	COMPONENT_BYTES = 256, /* NAME_MAX and the `/` */
	MAX_COMPONENTS = 512,
	MAX_HIERARCHIES = 64,
};

/* Append one name and a `/`. False when the bound is reached or the name cannot be read. */
static __always_inline bool append_component(struct scratch *to, const void *name, u32 bound)
{
	u32 used = to->used;
	long length;

	if (used > RECORD_BYTES - COMPONENT_BYTES || used - to->start > bound - COMPONENT_BYTES)
		return false;
	length = bpf_probe_read_kernel_str(&to->record[used], COMPONENT_BYTES, name);
	if (length <= 0 || length > COMPONENT_BYTES)
		return false;
	used += length;
	if (used == 0 || used > RECORD_BYTES)
		return false;
	to->record[used - 1] = '/';
	to->used = used;
	return true;
}

static long climb_directory(u32 index, struct scratch **context)
{
	struct scratch *to = *context;
	struct dentry *entry = (void *)to->node;
	struct dentry *above;

	if (to->node == to->root) {
		struct mount *mount = (void *)to->mount;
		struct mount *upper = BPF_CORE_READ(mount, mnt_parent);

		if (upper == mount || !upper) {
			to->ended = 1;
			return 1;
		}
		to->node = (u64)BPF_CORE_READ(mount, mnt_mountpoint);
		to->root = (u64)BPF_CORE_READ(upper, mnt.mnt_root);
		to->mount = (u64)upper;
		return 0;
	}
	above = BPF_CORE_READ(entry, d_parent);
	if (!above || !append_component(to, BPF_CORE_READ(entry, d_name.name), PATH_BYTES))
		return 1;
	if (above == entry) { /* the top of a tree that is mounted nowhere, such as a memfd */
		to->ended = 1;
		return 1;
	}
	to->node = (u64)above;
	return 0;
}

/* Append the path of (mount, entry); returns its length. */
static __always_inline u16 append_path(struct scratch *to, struct vfsmount *mount, struct dentry *entry, u32 *flags,
				       u32 cut)
{
	struct scratch *context = to;

	to->start = to->used;
	to->ended = 0;
	to->node = (u64)entry;
	to->root = (u64)mount->mnt_root;
	to->mount = (u64)mount - bpf_core_field_offset(struct mount, mnt);
	bpf_loop(MAX_COMPONENTS, climb_directory, &context, 0);
	if (!to->ended)
		*flags |= cut;
	return to->used - to->start;
}

/* Gone from its directory, or never in one: what makes the kernel write ` (deleted)`. */
static __always_inline bool is_deleted(struct vfsmount *mount, struct dentry *entry)
{
	if (entry == entry->d_parent)
		return entry != mount->mnt_root;
	return !entry->d_hash.pprev;
}

/* The pointer to the root of procmond's cgroup namespace, written by the iterator on procmond's behalf. */
u64 own_cgroup_root = 0;

static long climb_cgroup(u32 index, struct scratch **context)
{
	struct scratch *to = *context;
	struct kernfs_node *node = (void *)to->node;
	u64 above;

	if (bpf_core_field_exists(node->__parent))
		above = (u64)BPF_CORE_READ(node, __parent);
	else
		above = (u64)BPF_CORE_READ((struct kernfs_node___plain *)node, parent);
	if (!above || to->node == own_cgroup_root) {
		to->ended = 1;
		return 1;
	}
	if (!append_component(to, BPF_CORE_READ(node, name), CGROUP_BYTES))
		return 1;
	to->node = above;
	return 0;
}

struct search {
	u64 link;
	u64 end;
	u64 found; /* cgroup */
	int hierarchy;
	bool systemd;
};

static long try_hierarchy(u32 index, struct search *search)
{
	struct cgrp_cset_link *link;
	struct cgroup *group;
	char name[8] = {};

	if (!search->link || search->link == search->end)
		return 1;
	link = (void *)search->link - bpf_core_field_offset(struct cgrp_cset_link, cgrp_link);
	search->link = (u64)BPF_CORE_READ(link, cgrp_link.next);
	group = BPF_CORE_READ(link, cgrp);
	if (BPF_CORE_READ(group, level) == 0)
		return 0;
	BPF_CORE_READ_STR_INTO(&name, group, root, name);
	int hierarchy = BPF_CORE_READ(group, root, hierarchy_id);
	bool systemd = !__builtin_memcmp(name, "systemd", sizeof(name));
	if (systemd || hierarchy > search->hierarchy) {
		search->hierarchy = hierarchy;
		search->found = (u64)group;
	}
	return systemd;
}

/* The one cgroup that says most: below the unified root, else below systemd's, else the newest hierarchy's. */
static __always_inline u64 telling_cgroup(struct task_struct *leader)
{
	struct css_set *groups = leader->cgroups;
	struct cgroup *unified = groups->dfl_cgrp;

	if (unified->level == 0 && settings.legacy_cgroups) {
		struct search search = {
			.link = (u64)groups->cgrp_links.next,
			.end = (u64)groups + bpf_core_field_offset(struct css_set, cgrp_links),
		};

		bpf_loop(MAX_HIERARCHIES, try_hierarchy, &search, 0);
		struct cgroup *found = (void *)search.found;
		if (found)
			return (u64)BPF_CORE_READ(found, kn);
	}
	return (u64)unified->kn;
}

/* Append the cgroup's path; returns its length. */
static __always_inline u16 append_cgroup(struct scratch *to, struct task_struct *leader, u32 *flags)
{
	struct scratch *context = to;

	to->start = to->used;
	to->ended = 0;
	to->node = telling_cgroup(leader);
	bpf_loop(MAX_COMPONENTS, climb_cgroup, &context, 0);
	if (!to->ended)
		*flags |= FLAG_CGROUP_CUT;
	return to->used - to->start;
}
