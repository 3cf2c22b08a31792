// As much of UIKit as the package asks for, so that a Swift compiler without Apple's SDKs can check it.
@_exported import Foundation
#if canImport(FoundationNetworking)
@_exported import FoundationNetworking
#endif

public final class UIPasteboard: Sendable {
    public static let general = UIPasteboard()

    public struct DetectedValues {
        public var probableWebURL: String
    }

    public var string: String? { nil }

    public func detectedPatterns(
        for keyPaths: Set<PartialKeyPath<UIPasteboard.DetectedValues>>
    ) async throws -> Set<PartialKeyPath<UIPasteboard.DetectedValues>> {
        []
    }
}
