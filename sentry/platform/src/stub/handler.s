    .pushsection .rodata.runsc_stub, "a", @progbits
    .balign 64
    .globl runsc_stub_start, runsc_stub_handler, runsc_stub_boot, runsc_stub_restorer
    .globl runsc_stub_ready_ip, runsc_stub_command_ip, runsc_stub_clone_ip, runsc_stub_map_ip
    .globl runsc_stub_born_ip, runsc_stub_return_ip, runsc_stub_slot_mask, runsc_stub_chunk_mask
    .globl runsc_stub_chunk_size, runsc_stub_end, runsc_stub_data, runsc_stub_gs, runsc_stub_calls
    .globl runsc_stub_enter, runsc_stub_fact, runsc_stub_plain_ip, runsc_stub_saved, runsc_stub_copy_in
    .globl runsc_stub_copied_in, runsc_stub_copy_string, runsc_stub_copied_string, runsc_stub_probe
    .globl runsc_stub_transfer_ip, runsc_stub_again_ip
    .globl runsc_stub_substitute_ip, runsc_stub_substituted, runsc_stub_instead_ip, runsc_stub_plain, runsc_stub_plain_end, runsc_stub_no_input, runsc_stub_no_output, runsc_stub_answered
    .globl runsc_stub_probed, runsc_stub_asked, runsc_stub_took_back, runsc_stub_park_ip, runsc_stub_ring
    .globl runsc_stub_deep, runsc_stub_sink, runsc_stub_deep_ip, runsc_stub_woken, runsc_stub_rung
    .globl runsc_stub_ring_ip, runsc_stub_copy_out, runsc_stub_copied_out, runsc_stub_entered
    .globl runsc_stub_spawn_ip, runsc_stub_spawned_ip, runsc_stub_fresh_stack_ip, runsc_stub_fresh_map_ip, runsc_stub_fresh_end
    .globl runsc_stub_own, runsc_stub_own_read, runsc_stub_own_probed, runsc_stub_own_set, runsc_stub_own_kept
    .globl runsc_stub_own_undo, runsc_stub_own_undone, runsc_stub_place_ip, runsc_stub_own_end
    .globl runsc_stub_direct, runsc_stub_direct_saved, runsc_stub_direct_ip
    .hidden runsc_stub_data, runsc_stub_gs, runsc_stub_calls
    .hidden runsc_stub_slot_mask, runsc_stub_chunk_mask, runsc_stub_chunk_size, runsc_stub_ready_ip
runsc_stub_start:
runsc_stub_slot_mask:
    .quad 0
runsc_stub_chunk_mask:
    .quad 0
runsc_stub_chunk_size:
    .quad 0
runsc_stub_data:
    .quad 0
runsc_stub_gs: # whether wrgsbase may be used
    .quad 0
    .balign 64

    # Entered by the kernel: edi = signal, rsp = signal frame.
runsc_stub_handler:
    mov ebp, edi
    mov r12, rsp
    and r12, qword ptr [rip + runsc_stub_slot_mask]
    cmp dword ptr [r12 + {state}], {substitute}
    je 55f
    xor r14d, r14d
    xor r15d, r15d
10: # "I stand still": frame, last result, signal, commands done.
    mov rdi, rsp
    mov rsi, r15
    mov edx, ebp
    mov r10, r14
    mov eax, {ready}
    syscall
runsc_stub_ready_ip:
    test eax, eax
    jz 50f
    js 60f
    mov ebx, eax
    xor r14d, r14d
    lea r13, [r12 + {commands}]
    cmp eax, {spawn}
    jae 30f
20: # Execute ebx commands, stopping at the first error.
    mov rax, [r13]
    mov rdi, [r13 + 8]
    mov rsi, [r13 + 16]
    mov rdx, [r13 + 24]
    mov r10, [r13 + 32]
    mov r8, [r13 + 40]
    mov r9, [r13 + 48]
    syscall
runsc_stub_command_ip:
    mov r15, rax
    cmp rax, -4095
    jae 10b
    inc r14
    add r13, {command_size}
    dec ebx
    jnz 20b
    jmp 10b
30: # clone
    mov rax, [r13]
    mov rdi, [r13 + 8]
    mov rsi, [r13 + 16]
    mov rdx, [r13 + 24]
    mov r10, [r13 + 32]
    mov r8, [r13 + 40]
    mov r9, [r13 + 48]
    syscall
runsc_stub_clone_ip:
    test rax, rax
    jz 40f
    mov r15, rax
    cmp rax, -4095
    jae 10b
    inc r14
    jmp 10b
40: # The child. Without a slot of its own, it first maps its chunk (offset in r9) over its parent's. With one, it
    # points gs to it, if that is wanted (r9); a copy's is at the same address as its parent's.
    cmp ebx, {spawn_copy}
    jne 44f
    mov rdi, r12
    and rdi, qword ptr [rip + runsc_stub_chunk_mask]
    mov rsi, qword ptr [rip + runsc_stub_chunk_size]
    mov edx, 3
    mov r10d, 0x11
    mov r8d, {slot_fd}
    mov eax, 9
    syscall
runsc_stub_map_ip:
    cmp rax, -4095
    jae 60f
    jmp 45f
44:
    mov r12, rsp
    and r12, qword ptr [rip + runsc_stub_slot_mask]
    test r9, r9
    jz 45f
    wrgsbase r12
45:
    mov r12, rsp
    and r12, qword ptr [rip + runsc_stub_slot_mask]
    xor ebp, ebp
    xor r14d, r14d
    xor r15d, r15d
    mov rdi, rsp
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    mov eax, {born}
    syscall
runsc_stub_born_ip:
    jmp runsc_stub_ready_ip
50: # Back to the application.
    add rsp, 8
runsc_stub_restorer:
    mov eax, 15
    syscall
runsc_stub_return_ip:
    ud2
55: # In the place of the call that the thread came from another one is made. What is returned stands in the frame; should the call fail,
    # its error is.
    mov rax, [r12 + {commands}]
    mov rdi, [r12 + {commands} + 8]
    mov rsi, [r12 + {commands} + 16]
    mov rdx, [r12 + {commands} + 24]
    mov r10, [r12 + {commands} + 32]
    mov r8, [r12 + {commands} + 40]
    mov r9, [r12 + {commands} + 48]
    syscall
runsc_stub_instead_ip:
    cmp rax, -4095
    jb 50b
    mov [rsp + {frame_rax}], rax
    jmp 50b
60: # Nobody answers, or set-up failed. All signals are masked, so this is the end.
    mov [r12 + {failure}], r14
    mov [r12 + {failure} + 8], r15
    ud2

    # Handler of the seed's first signal: commands before there is a filter.
runsc_stub_boot:
    mov ebp, edi
    mov r12, rsp
    and r12, qword ptr [rip + runsc_stub_slot_mask]
    cmp qword ptr [rip + runsc_stub_gs], 0
    je 65f
    wrgsbase r12
65:
    mov ebx, [r12 + {boot_count}]
    lea r13, [r12 + {commands}]
    xor r14d, r14d
    jmp 20b
