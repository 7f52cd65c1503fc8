// SPDX-License-Identifier: GPL-2.0
/*
 * Test-only: SEAMCALLs of its own, to measure how fast they are answered, and
 * a look at the module's PAMT as the host sees it.
 *
 * Everything happens while the module is loaded; the outcome is in debugfs,
 * tdx_bench/result, one "name value" per line.
 *
 * A kernel that has brought the TDX module up keeps its online CPUs in VMX
 * operation, so that SEAMCALL can be executed anywhere. Where it cannot, its
 * fault is caught and reported as a status.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/cpu.h>
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include <asm/asm.h>

#define TDH_SYS_RD		34
/* NUM_CPUID_CONFIG: reading it changes nothing. */
#define HARMLESS_FIELD		0x9900000100000004UL

/* Software-defined, in a range that no completion status uses. */
#define STATUS_VMFAILINVALID	0xffffffffffff0000UL
#define STATUS_FAULT		0xffffffffffff0001UL

#define LINE			64

static ulong calls = 100000;
module_param(calls, ulong, 0444);
MODULE_PARM_DESC(calls, "SEAMCALLs per CPU");

static uint chunk = 256;
module_param(chunk, uint, 0444);
MODULE_PARM_DESC(chunk, "SEAMCALLs between two chances for others to run");

static bool all_cpus;
module_param(all_cpus, bool, 0444);
MODULE_PARM_DESC(all_cpus, "on all online CPUs at once");

static ulong leaf = TDH_SYS_RD;
module_param(leaf, ulong, 0444);
MODULE_PARM_DESC(leaf, "RAX");

static ulong field = HARMLESS_FIELD;
module_param(field, ulong, 0444);
MODULE_PARM_DESC(field, "RDX: the metadata field that TDH.SYS.RD reads");

static ulong tdmr_list;
module_param(tdmr_list, ulong, 0444);
MODULE_PARM_DESC(tdmr_list, "address of the kernel's tdx_tdmr_list: look at the PAMT");

/* What one CPU did. */
struct worker {
	struct task_struct *task;
	u64 begin;
	u64 end;
	u64 status;
};

static struct {
	unsigned int cpus;
	u64 nanoseconds;
	u64 status;
	u64 pages;
	u64 lines;
	u64 zero_lines;
	u64 repeated_lines;
} result;

static atomic_t not_ready;
static struct dentry *dir;

/*
 * One SEAMCALL. The carry flag is consumed by the very next instruction: that
 * is where every emulation of the flags is exact.
 */
static __always_inline u64 one_seamcall(u64 rax, u64 rdx)
{
	u64 rcx = 0;

	asm goto("1:	.byte 0x66, 0x0f, 0x01, 0xcf\n\t"
		 "jc %l[invalid]\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : "+a" (rax), "+c" (rcx), "+d" (rdx)
		 :
		 : "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
		   "r13", "r14", "r15", "cc", "memory"
		 : invalid, fault);
	return rax;
invalid:
	return STATUS_VMFAILINVALID;
fault:
	return STATUS_FAULT;
}

static void make_calls(struct worker *worker)
{
	ulong left = calls;

	worker->begin = ktime_get_ns();
	while (left) {
		ulong now = min(left, (ulong)chunk);

		left -= now;
		preempt_disable();
		while (now--)
			worker->status = one_seamcall(leaf, field);
		preempt_enable();
		cond_resched();
	}
	worker->end = ktime_get_ns();
}

static int work(void *data)
{
	struct worker *worker = data;

	/* Nobody begins before everybody can. */
	atomic_dec(&not_ready);
	while (atomic_read(&not_ready)) {
		cpu_relax();
		cond_resched();
	}
	make_calls(worker);

	/* The thread's owner collects it. */
	set_current_state(TASK_INTERRUPTIBLE);
	while (!kthread_should_stop()) {
		schedule();
		set_current_state(TASK_INTERRUPTIBLE);
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

/* Called with the set of online CPUs held. */
static int measure(struct worker *workers)
{
	u64 begin = U64_MAX, end = 0;
	unsigned int cpu, n = 0, i;
	int ret = 0;

	for_each_online_cpu(cpu) {
		struct task_struct *task;

		task = kthread_create_on_cpu(work, &workers[n], cpu, "tdx_bench/%u");
		if (IS_ERR(task)) {
			ret = PTR_ERR(task);
			break;
		}
		workers[n++].task = task;
		if (!all_cpus)
			break;
	}

	/* Threads that were never woken do nothing and are stopped all the same. */
	if (!ret) {
		atomic_set(&not_ready, n);
		for (i = 0; i < n; i++)
			wake_up_process(workers[i].task);
		while (atomic_read(&not_ready))
			cond_resched();
	}
	for (i = 0; i < n; i++)
		kthread_stop(workers[i].task);
	if (ret)
		return ret;

	for (i = 0; i < n; i++) {
		begin = min(begin, workers[i].begin);
		end = max(end, workers[i].end);
		result.status = workers[i].status;
		/* One CPU's failure is not hidden by another's success. */
		if (result.status)
			break;
	}
	result.cpus = n;
	result.nanoseconds = end - begin;
	return 0;
}

static int run_bench(void)
{
	struct worker *workers;
	int ret;

	workers = kcalloc(nr_cpu_ids, sizeof(*workers), GFP_KERNEL);
	if (!workers)
		return -ENOMEM;

	cpus_read_lock();
	ret = measure(workers);
	cpus_read_unlock();

	kfree(workers);
	return ret;
}

/* TDMR_INFO up to its reserved areas. */
struct tdmr_info {
	u64 base;
	u64 size;
	struct {
		u64 base;
		u64 size;
	} pamt[3];
};

/* The beginning of Linux 7.3's own list of them. */
struct tdmr_info_list {
	void *tdmrs;
	int nr_consumed_tdmrs;
	int tdmr_sz;
};

static void look_at_page(u64 pa)
{
	const u8 *page = __va(pa);
	unsigned int at;

	result.pages++;
	for (at = 0; at < PAGE_SIZE; at += LINE) {
		result.lines++;
		if (!memchr_inv(page + at, 0, LINE))
			result.zero_lines++;
		if (at && !memcmp(page + at, page + at - LINE, LINE))
			result.repeated_lines++;
	}
}

static int look_at_pamt(void)
{
	const struct tdmr_info_list *list = (const void *)tdmr_list;
	int i, level;

	for (i = 0; i < list->nr_consumed_tdmrs; i++) {
		const struct tdmr_info *tdmr = list->tdmrs + i * list->tdmr_sz;

		/*
		 * The 1G level is left out: a TDMR has a few entries in its
		 * page, and the rest of it stays the host's.
		 */
		for (level = 1; level < ARRAY_SIZE(tdmr->pamt); level++) {
			u64 base = tdmr->pamt[level].base;
			u64 last = base + tdmr->pamt[level].size - PAGE_SIZE;

			if (!tdmr->pamt[level].size)
				continue;
			if (!PAGE_ALIGNED(base) || !PAGE_ALIGNED(last) ||
			    !pfn_valid(PHYS_PFN(base)) || !pfn_valid(PHYS_PFN(last)))
				return -ENXIO;

			look_at_page(base);
			if (last != base)
				look_at_page(last);
		}
	}
	return 0;
}

static int result_show(struct seq_file *m, void *unused)
{
	if (tdmr_list) {
		seq_printf(m, "pages %llu\n", result.pages);
		seq_printf(m, "lines %llu\n", result.lines);
		seq_printf(m, "zero_lines %llu\n", result.zero_lines);
		seq_printf(m, "repeated_lines %llu\n", result.repeated_lines);
		return 0;
	}
	seq_printf(m, "calls %llu\n", (u64)calls * result.cpus);
	seq_printf(m, "cpus %u\n", result.cpus);
	seq_printf(m, "nanoseconds %llu\n", result.nanoseconds);
	seq_printf(m, "status 0x%llx\n", result.status);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(result);

static int __init tdx_bench_init(void)
{
	int ret;

	if (!chunk)
		return -EINVAL;

	ret = tdmr_list ? look_at_pamt() : run_bench();
	if (ret)
		return ret;

	if (!tdmr_list)
		pr_info("%llu SEAMCALLs on %u CPUs in %llu ns, %llu per second, last status 0x%llx\n",
			(u64)calls * result.cpus, result.cpus,
			result.nanoseconds,
			div64_u64((u64)calls * result.cpus * NSEC_PER_SEC,
				  max(result.nanoseconds, 1ULL)),
			result.status);

	dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("result", 0400, dir, NULL, &result_fops);
	return 0;
}
module_init(tdx_bench_init);

static void __exit tdx_bench_exit(void)
{
	debugfs_remove(dir);
}
module_exit(tdx_bench_exit);

MODULE_DESCRIPTION("Test-only SEAMCALLs of a module's own");
MODULE_LICENSE("GPL");
