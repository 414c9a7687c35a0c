//! Memory that is mapped where the sentry has suggested it, and suggestions that are not followed.

use super::*;
use crate::seccomp::thread::Stand;
use crate::stub::{SLOT_PLACE, SLOT_PLACE_LENGTH};

programs! {
    // Makes the call in rbp through the stub (whose entry is in rbx), then reports what it returned.
    call_through: "lea rcx, [rip + 2f]" "mov rax, rbp" "jmp rbx" "2: mov rdi, rax" "mov eax, 1000" "syscall" "ud2";
}

const MMAP: u64 = libc::SYS_mmap.cast_unsigned();
const LENGTH: u64 = 0x2000;
const ANYWHERE: u64 = 0x22;
const DESCRIPTOR: u64 = u64::MAX;

/// The program makes its `mmap` through the stub, once more if it has done so before.
async fn asking(platform: &SeccompPlatform, context: &mut Box<dyn Context>) {
    capture(context).await;
    let registers = context.registers().expect("captured");
    (registers.rip, registers.rbx, registers.rbp) = (CODE, platform.core.labels.enter, MMAP);
    (registers.rdi, registers.rsi, registers.rdx) = (0, LENGTH, 3);
    (registers.r10, registers.r8, registers.r9) = (ANYWHERE, DESCRIPTOR, 0);
    let request = syscall(context, Resume::Registers).await;
    assert_eq!((request.number, request.arguments), (MMAP, [0, LENGTH, 3, ANYWHERE, DESCRIPTOR, 0]));
    assert!(context.may_substitute());
}

fn at(address: u64) -> Resume {
    let operation =
        Substitute::MapAnonymous { address, length: LENGTH, protection: READ_WRITE, reserve: true };
    Resume::Substitute { operation, result: address }
}

/// Lets the memory be mapped there; whether the call that was held did it.
async fn map_at(context: &mut Box<dyn Context>, address: u64) -> bool {
    context.resume(at(address));
    let at_once = !matches!(behind(&**context).thread.state.lock().stand, Stand::Substituting(_));
    let Trap::Syscall(report) = trap(context).await else { panic!("no report") };
    assert_eq!((report.number, report.arguments[0]), (1000, address));
    assert_eq!(report.arguments[1..], [LENGTH, 3, ANYWHERE, DESCRIPTOR, 0], "the application's registers");
    assert!(is_mapped(&**context, address) && is_mapped(&**context, address + LENGTH - 1));
    at_once
}

fn is_mapped(context: &dyn Context, address: u64) -> bool {
    context.memory().write(address, &[1]) == Ok(1)
}

fn suggest(context: &dyn Context, address: u64, length: u64) {
    let slot = &behind(context).thread.slot;
    slot.set_word(SLOT_PLACE, address);
    slot.set_word(SLOT_PLACE_LENGTH, length);
}

#[test]
fn the_next_mapping_goes_below_at_once_and_what_is_given_back_is_mapped_again() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, call_through()).await;
        asking(platform, &mut context).await;
        assert!(!map_at(&mut context, 0x5000_0000).await, "nothing was known yet");
        for number in 1..4 {
            asking(platform, &mut context).await;
            assert!(map_at(&mut context, 0x5000_0000 - number * LENGTH).await);
        }
        // Given back by a call that the host carries out as it stands.
        capture(&mut context).await;
        let registers = context.registers().expect("captured");
        (registers.rip, registers.rbx) = (CODE, platform.core.labels.enter);
        (registers.rbp, registers.rdi, registers.rsi) =
            (libc::SYS_munmap.cast_unsigned(), 0x5000_0000, LENGTH);
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, libc::SYS_munmap.cast_unsigned());
        assert_eq!(syscall(&mut context, Resume::Native).await.arguments[0], 0);
        assert!(!is_mapped(&*context, 0x5000_0000));
        asking(platform, &mut context).await;
        assert!(map_at(&mut context, 0x5000_0000).await);
    });
}

#[test]
fn a_suggestion_that_the_kernel_does_not_follow_maps_nothing() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, call_through()).await;
        let own = behind(&*context).thread.slot.address;
        for forged in [0x6000_0000, 0x6000_0001, 0, 1, DATA, own & !0xfff, u64::MAX, 1 << 47] {
            suggest(&*context, forged, LENGTH);
            asking(platform, &mut context).await;
            assert!(!map_at(&mut context, 0x5000_0000).await);
            // What the kernel refuses is refused.
            suggest(&*context, forged, LENGTH);
            asking(platform, &mut context).await;
            let refusal = abi::errno::ENOMEM.to_return_value();
            let report = syscall(&mut context, Resume::Return(refusal)).await;
            assert_eq!((report.arguments[0], report.arguments[3]), (refusal, ANYWHERE));
        }
        assert!(!is_mapped(&*context, 0x6000_0000));
        // For another length there is none.
        suggest(&*context, 0x6000_0000, LENGTH + 0x1000);
        asking(platform, &mut context).await;
        assert!(behind(&*context).thread.state.lock().placed.is_none());
        // Executed as it stands it cannot be: the call as the application has made it leaves the place open.
        suggest(&*context, 0x6000_0000, LENGTH);
        asking(platform, &mut context).await;
        let refusal = abi::errno::EINVAL.to_return_value();
        assert_eq!(syscall(&mut context, Resume::Native).await.arguments[0], refusal);
        assert!(!is_mapped(&*context, 0x6000_0000));
    });
}

#[test]
fn who_maps_at_a_suggested_place_can_be_interrupted_and_captured() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, call_through()).await;
        for round in 0..20 {
            let address = 0x5000_0000 + round * LENGTH;
            suggest(&*context, address, LENGTH);
            asking(platform, &mut context).await;
            context.interrupter().interrupt();
            assert!(matches!(run(&mut context, at(address)).await, Trap::Interrupted));
            let registers = *context.registers().expect("captured");
            assert_eq!((registers.rax, registers.rdi, registers.r10), (address, 0, ANYWHERE));
            assert!(is_mapped(&*context, address));
        }
        suggest(&*context, 0x6000_0000, LENGTH);
        asking(platform, &mut context).await;
        capture(&mut context).await;
        let registers = *context.registers().expect("captured");
        assert_eq!((registers.rdi, registers.rsi, registers.r10), (0, LENGTH, ANYWHERE));
        let report = syscall(&mut context, Resume::Return(7)).await;
        assert_eq!((report.arguments[0], report.arguments[3]), (7, ANYWHERE));
        assert!(!is_mapped(&*context, 0x6000_0000));
    });
}
